"""Which of SAM's masks is kept."""

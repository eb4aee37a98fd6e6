"""The study makes the tables of README and docs again, from runs, and writes them where they stand."""

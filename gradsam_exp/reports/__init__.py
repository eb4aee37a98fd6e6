"""What people look at: tables, curves and figures of runs, and the page ``report.html``."""

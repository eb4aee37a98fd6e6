"""The program around the tasks: it reads the command line, and starts and watches runs and sweeps."""

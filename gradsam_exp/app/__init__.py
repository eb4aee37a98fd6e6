"""The program around the tasks: command line, sweeps, launchers."""

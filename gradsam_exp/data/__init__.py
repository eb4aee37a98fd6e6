"""This package reads and draws data sets; ``data`` and ``background`` choose among what registers itself here."""

"""The study asks why background points make SAM's masks worse.

``docs/background-points.md`` discusses what it finds.
"""

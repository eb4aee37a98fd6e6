"""Makes ``python -m gradsam_exp`` the same as the command ``gradsam-exp``."""

from gradsam_exp.app.cli import main

if __name__ == "__main__":
    main()

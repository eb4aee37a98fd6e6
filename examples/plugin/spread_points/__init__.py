"""Offers a prompt strategy to gradsam_exp: foreground points spread over the warm pixels."""

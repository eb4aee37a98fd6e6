"""Each study investigates one question; it uses gradsam_exp as anybody would and is not part of it."""

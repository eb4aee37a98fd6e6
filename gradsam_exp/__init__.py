"""gradsam_exp: how well can a classifier's own attention drive the Segment Anything Model?"""

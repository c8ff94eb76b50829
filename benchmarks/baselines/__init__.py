"""What the papers' scripts do, in our own words: plain torch to measure against and to test against."""

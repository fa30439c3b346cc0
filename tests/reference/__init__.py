"""The references against facts and formulations that they do not share."""

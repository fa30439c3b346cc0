"""The relations turn red on what they are for."""

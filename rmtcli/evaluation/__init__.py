"""Does the network still do what it did?"""

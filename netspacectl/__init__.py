"""`netspacectl`: the command line for people and scripts, a client of the IPAM server's API.

Nothing is decided here: input is read, the server is asked, answers are shown.
"""

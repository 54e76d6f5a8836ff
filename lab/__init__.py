"""How a clone is set up and run: environment, programs, lab kernel, demo, tests.

Development only, never part of the distribution. What sets up (`setup`,
`packages`, `programs`, `probe`, `kernel`, `inside`, `checks`, `lint`) needs
nothing but the standard library, since it runs before anything is installed.
"""

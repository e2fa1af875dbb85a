"""pull and unpack from a registry on loopback into an empty store"""
NAME="pull"
def options(c): pass
def measure(o): pass

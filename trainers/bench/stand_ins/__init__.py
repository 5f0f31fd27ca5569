"""Small stand-ins for packages that other people's scripts import and that aren't installed here.

Own code, loaded by path, so that they serve a Python that has no Pigment too. Each has `register()`, which
puts it into `sys.modules`; it is called only where the real package is missing.
"""

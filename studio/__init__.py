"""People: the page, its workspace, its queue of jobs and the `pigment` command.

Importing this package reads nothing, writes nothing and imports neither torch nor gradio.
"""

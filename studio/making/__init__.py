"""Inside the drawing process (`studio.maker`): the base that is held, jobs' pictures, the live preview."""

"""The evaluation of a model bundle as self-contained HTML. The only package that imports matplotlib and Jinja2."""

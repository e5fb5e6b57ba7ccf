"""What a model bundle is worth, as pages that need nothing beside them. The only room that imports matplotlib, Jinja2."""

"""The small data set and the small encoder that ship with the project, and the scripts that made both."""

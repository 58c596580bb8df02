"""The host layer: everything around the compiled core that a person sees."""

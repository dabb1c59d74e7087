"""An image's work in a node: request body, pipeline, capacity, who does it."""

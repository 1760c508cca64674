"""Other engines behind the same gateway: each implements `serving.engine.request.Engine`."""

"""The HTTP gateway: protocols, routing, champions, rollout, recorder and feedback."""

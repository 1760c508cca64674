"""Redaction of secrets and personal data, for session logs and for the recorder."""

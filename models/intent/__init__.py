"""Purchase intent of live sessions."""

"""Snapshots of the engines' state: parts and manifests in a folder or a bucket. Knows arrays and files, nothing of what they mean."""

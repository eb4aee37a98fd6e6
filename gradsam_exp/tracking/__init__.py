"""This package shows runs in Weights & Biases, MLflow or TensorBoard; its errors are warnings and fail no run.

A run of W&B is written offline, into its own folder, and never waits for a server. Where there is a server and a
key, `upload` sends it on in a process of its own, for a limited time. The two others write local files.
"""

"""This package makes weights: it trains classifiers (`classification`) and promptable segmenters (`promptable`).

Segmenters learn from endless random `scenes`, which `scene_loader` turns into batches and `queries` into prompts.
`fitting` resumes and stops trainings.
"""

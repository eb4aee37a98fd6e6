"""Run an experiment, or a sweep of experiments: ``python run.py pipeline=fgbg bg_threshold=0.1``. See ``--help``.

The same program as ``gradsam-exp`` and ``python -m gradsam_exp``. From here it goes like this:

1. `gradsam_exp.app.cli.main` lets Hydra compose ``conf/config.yaml``, the chosen groups and the overrides.
2. `gradsam_exp.app.cli.run_job` checks the configuration and calls ``run`` of ``gradsam_exp/tasks/<task>.py``,
   once, or for each job of a sweep (``-m``).
3. `gradsam_exp.tasks.evaluate` makes the plan (which classifier, explainer, strategy, segmenter, …), prepares
   heatmaps and image embeddings, goes through the images, and leaves a folder of results.
"""

from gradsam_exp.app.cli import main

if __name__ == "__main__":
    main()

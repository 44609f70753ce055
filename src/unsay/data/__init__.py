"""Training data on ids: from a dataset's examples to rows on disk (`build`)."""

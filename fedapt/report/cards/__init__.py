"""The cards of a run's page and of a comparison's page, a module for each question that they answer."""

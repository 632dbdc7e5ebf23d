"""Training: one loop, used by pretraining and by ensembles of finetunings."""

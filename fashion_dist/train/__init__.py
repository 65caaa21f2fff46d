"""Training: `trainer.Trainer.fit` is the loop; read that file first."""

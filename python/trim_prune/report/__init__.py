"""What a person sees of a run: report.html, the model card, and two or more runs compared."""

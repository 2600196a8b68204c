"""What appears in the videos prefix: `publish` writes videos, posters and manifests, `verdicts` why there is none."""

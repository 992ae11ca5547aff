"""A git-annex special remote that keeps encrypted, erasure-coded shares of every object on several stores."""

"""Moving objects between git-annex and stores: placement, presence, upload, download, removal."""

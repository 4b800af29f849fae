"""Public corpora in their own layouts, made into shards that train."""

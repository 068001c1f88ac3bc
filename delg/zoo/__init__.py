"""Models by name: settings, weights, fingerprints; fetched, described and exported."""

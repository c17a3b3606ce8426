"""The frozen backbone's features, computed once: kept in memory and on disk."""

"""Who has a roster: the registry in the application's database, the partition keys, and the partitions kept in line."""

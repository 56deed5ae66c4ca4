"""A process that writes generation after generation of verdicts until it is killed; started by test_identity_faults."""

import sys
from datetime import timedelta

from runway_pipelines.identity.writer import write
from runway_pipelines.systems.postgres.databases import CatalogueDatabase
from tests.integration.identity_world import NOW, answer, found, single

LIBRARIES, BATCH = 400, 50


def main() -> None:
    host, port, database, user, password, schema, generation = sys.argv[1:]
    resource = CatalogueDatabase(host=host, port=int(port), database=database, username=user, password=password)
    for number in range(int(generation), int(generation) + 1_000_000):
        for first in range(1, LIBRARIES + 1, BATCH):
            verdicts = [
                single(
                    library_id,
                    *(found(source, f"g{number}") for source in ("discogs", "spotify", "wikidata")),
                    wikidata_qid=f"g{number}",
                )
                for library_id in range(first, first + BATCH)
            ]
            moment = NOW + timedelta(seconds=number)
            write(resource.connection, answer(*verdicts), schema=schema, has_artist_columns=True, now=moment)
        sys.stdout.write(f"{number}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()

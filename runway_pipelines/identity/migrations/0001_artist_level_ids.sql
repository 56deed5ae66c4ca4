-- Optional: columns for the artist-level ids that LML composes, in the main rows and in their history.
-- `runway-pipelines identity migrate --apply` runs this; by hand:
--   PGOPTIONS='-c search_path=wxyc_schema' psql --single-transaction --file 0001_artist_level_ids.sql
-- Adding nullable columns rewrites nothing, but waits for all users of the tables and blocks new ones meanwhile.
set local lock_timeout = '5s';

alter table library_identity
    add column if not exists discogs_artist_id int,
    add column if not exists musicbrainz_artist_id uuid,
    add column if not exists bandcamp_id text;

alter table library_identity_history
    add column if not exists discogs_artist_id int,
    add column if not exists musicbrainz_artist_id uuid,
    add column if not exists bandcamp_id text;

-- Many events may come in one record of usage.events. Its place there is then part of where an event
-- was read, and so of what makes a row of these tables the same row.
ALTER TABLE events
    ADD COLUMN IF NOT EXISTS source_index UInt32 CODEC(ZSTD(1))
        COMMENT 'Place in a record that held many events, else 0' AFTER source_offset;

ALTER TABLE set_aside
    ADD COLUMN IF NOT EXISTS source_index UInt32 CODEC(ZSTD(1))
        COMMENT 'Place in a record that held many events, else 0' AFTER source_offset,
    MODIFY ORDER BY (source_partition, source_offset, source_index);

ALTER TABLE rejections
    ADD COLUMN IF NOT EXISTS source_index UInt32 CODEC(ZSTD(1))
        COMMENT 'Place in a record that held many events, else 0' AFTER source_offset,
    MODIFY ORDER BY (source_partition, source_offset, source_index);

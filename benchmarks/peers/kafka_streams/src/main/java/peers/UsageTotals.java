package peers;

import com.fasterxml.jackson.core.JsonFactory;
import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonToken;
import java.io.FileReader;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.HashMap;
import java.util.Map;
import java.util.Properties;
import java.util.concurrent.CountDownLatch;
import org.apache.kafka.common.serialization.Serdes;
import org.apache.kafka.streams.KafkaStreams;
import org.apache.kafka.streams.StreamsConfig;
import org.apache.kafka.streams.Topology;
import org.apache.kafka.streams.processor.PunctuationType;
import org.apache.kafka.streams.processor.api.Processor;
import org.apache.kafka.streams.processor.api.ProcessorContext;
import org.apache.kafka.streams.processor.api.Record;
import org.apache.kafka.streams.state.KeyValueStore;
import org.apache.kafka.streams.state.RocksDBConfigSetter;
import org.apache.kafka.streams.state.Stores;
import org.apache.kafka.streams.state.WindowStore;
import org.rocksdb.BlockBasedTableConfig;
import org.rocksdb.BloomFilter;
import org.rocksdb.Cache;
import org.rocksdb.CompressionType;
import org.rocksdb.LRUCache;
import org.rocksdb.Options;

/**
 * Sums usage per customer, event type and month, each (source, id) once within 35 days.
 *
 * <p>Arguments: the properties file, the input topic, the output topic.
 */
public final class UsageTotals {
  private static final Duration REMEMBERED = Duration.ofDays(35);

  /**
   * Identities are filed under the half of the 35 days in which they arrived, so that looking one up
   * takes three point reads, which bloom filters answer, and no range scan.
   */
  private static final long SLICE_MS = REMEMBERED.toMillis() / 2;

  private static final Duration EMIT_EVERY = Duration.ofMillis(500);

  private UsageTotals() {}

  public static void main(String[] arguments) throws Exception {
    Properties settings = new Properties();
    try (FileReader reader = new FileReader(arguments[0])) {
      settings.load(reader);
    }
    settings.put(StreamsConfig.ROCKSDB_CONFIG_SETTER_CLASS_CONFIG, Tuned.class);

    Topology topology = new Topology();
    topology.addSource(
        "events",
        Serdes.ByteArray().deserializer(),
        Serdes.ByteArray().deserializer(),
        arguments[1]);
    topology.addProcessor("count", Count::new, "events");
    topology.addStateStore(
        // Each identity is written once and read rarely: caching it would only cost.
        Stores.windowStoreBuilder(
            Stores.persistentWindowStore(
                "seen", REMEMBERED.plusMillis(SLICE_MS), Duration.ofMillis(SLICE_MS), false),
            Serdes.ByteArray(),
            Serdes.ByteArray()),
        "count");
    topology.addStateStore(
        Stores.keyValueStoreBuilder(
                Stores.persistentKeyValueStore("totals"), Serdes.String(), Serdes.ByteArray())
            .withCachingEnabled(),
        "count");
    topology.addSink(
        "output", arguments[2], Serdes.String().serializer(), Serdes.ByteArray().serializer(), "count");

    KafkaStreams streams = new KafkaStreams(topology, settings);
    CountDownLatch ended = new CountDownLatch(1);
    streams.setUncaughtExceptionHandler(
        fault -> {
          fault.printStackTrace();
          ended.countDown();
          return org.apache.kafka.streams.errors.StreamsUncaughtExceptionHandler
              .StreamThreadExceptionResponse.SHUTDOWN_CLIENT;
        });
    streams.start();
    ended.await();
    streams.close(Duration.ofSeconds(10));
    System.exit(1);
  }

  /** Dedupe and aggregate in one processor, so that no repartition topic lies between them. */
  private static final class Count implements Processor<byte[], byte[], String, byte[]> {
    private static final byte[] SEEN = {1};

    private final JsonFactory json = new JsonFactory();

    /** What changed since it was last forwarded. */
    private final Map<String, Sum> changed = new HashMap<>();

    private ProcessorContext<String, byte[]> context;
    private WindowStore<byte[], byte[]> seen;
    private KeyValueStore<String, byte[]> totals;

    @Override
    public void init(ProcessorContext<String, byte[]> context) {
      this.context = context;
      seen = context.getStateStore("seen");
      totals = context.getStateStore("totals");
      changed.clear();
      // What a former owner had not forwarded before it ended is not known: all of it, once more.
      try (var all = totals.all()) {
        all.forEachRemaining(total -> changed.put(total.key, Sum.read(total.value)));
      }
      context.schedule(EMIT_EVERY, PunctuationType.WALL_CLOCK_TIME, this::emit);
    }

    @Override
    public void process(Record<byte[], byte[]> record) {
      Event event = Event.parse(json, record.value());
      byte[] identity = event.identity();
      long slice = record.timestamp() / SLICE_MS * SLICE_MS;
      for (long at = slice; at >= slice - 2 * SLICE_MS; at -= SLICE_MS) {
        if (seen.fetch(identity, at) != null) {
          return;
        }
      }
      seen.put(identity, SEEN, slice);
      String key = event.totalKey();
      Sum total = changed.get(key);
      if (total == null) {
        total = Sum.read(totals.get(key));
        changed.put(key, total);
      }
      total.value += event.value;
      total.events++;
      totals.put(key, total.bytes());
    }

    private void emit(long now) {
      changed.forEach((key, total) -> context.forward(new Record<>(key, total.json(key), now)));
      changed.clear();
    }
  }

  private static final class Sum {
    private long value;
    private long events;

    static Sum read(byte[] bytes) {
      Sum sum = new Sum();
      if (bytes != null) {
        ByteBuffer buffer = ByteBuffer.wrap(bytes);
        sum.value = buffer.getLong();
        sum.events = buffer.getLong();
      }
      return sum;
    }

    byte[] bytes() {
      return ByteBuffer.allocate(16).putLong(value).putLong(events).array();
    }

    byte[] json(String key) {
      String[] parts = key.split("\\|");
      return ("{\"customer\":\"" + parts[0] + "\",\"type\":\"" + parts[1] + "\",\"month\":\""
              + parts[2] + "\",\"value\":" + value + ",\"events\":" + events + "}")
          .getBytes(StandardCharsets.UTF_8);
    }
  }

  private static final class Event {
    private String id;
    private String source;
    private String type;
    private String subject;
    private String time;
    private long value;

    static Event parse(JsonFactory json, byte[] text) {
      Event event = new Event();
      try (JsonParser parser = json.createParser(text)) {
        parser.nextToken();
        while (parser.nextToken() == JsonToken.FIELD_NAME) {
          String name = parser.currentName();
          parser.nextToken();
          switch (name) {
            case "id" -> event.id = parser.getText();
            case "source" -> event.source = parser.getText();
            case "type" -> event.type = parser.getText();
            case "subject" -> event.subject = parser.getText();
            case "time" -> event.time = parser.getText();
            case "data" -> {
              while (parser.nextToken() == JsonToken.FIELD_NAME) {
                String member = parser.currentName();
                parser.nextToken();
                if (member.equals("value")) {
                  event.value = parser.getLongValue();
                } else {
                  parser.skipChildren();
                }
              }
            }
            default -> parser.skipChildren();
          }
        }
      } catch (IOException fault) {
        throw new UncheckedIOException(fault);
      }
      return event;
    }

    byte[] identity() {
      return (source + '|' + id).getBytes(StandardCharsets.UTF_8);
    }

    String totalKey() {
      return subject + '|' + type + '|' + time.substring(0, 7);
    }
  }

  /** As Kafka Streams' documentation on memory and the tuning guide of RocksDB recommend. */
  public static final class Tuned implements RocksDBConfigSetter {
    private static final Cache CACHE = new LRUCache(256L << 20);

    @Override
    public void setConfig(String store, Options options, Map<String, Object> settings) {
      BlockBasedTableConfig table = (BlockBasedTableConfig) options.tableFormatConfig();
      table.setBlockCache(CACHE);
      table.setFilterPolicy(new BloomFilter(10, false));
      table.setBlockSize(16 << 10);
      options.setCompressionType(CompressionType.LZ4_COMPRESSION);
      options.setWriteBufferSize(64L << 20);
      options.setMaxWriteBufferNumber(3);
    }

    @Override
    public void close(String store, Options options) {}
  }
}

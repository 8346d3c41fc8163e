"""What the local broker's two settings files say."""

from __future__ import annotations

_RECORD_BYTES_MAX = 16 * 1024 * 1024

#: Kafka's own settings, to be formatted with `port` and `controller_port`. The records' folder is
#: named from where it runs: a whole path may have letters that mean something else here.
SETTINGS = f"""\
process.roles=broker,controller
node.id=1
listeners=PLAINTEXT://127.0.0.1:{{port}},CONTROLLER://127.0.0.1:{{controller_port}}
advertised.listeners=PLAINTEXT://127.0.0.1:{{port}}
controller.listener.names=CONTROLLER
controller.quorum.voters=1@127.0.0.1:{{controller_port}}
log.dirs=data
auto.create.topics.enable=false
# One node holds everything.
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
# A few partitions start faster than fifty, and serve as many clients as one machine has.
offsets.topic.num.partitions=4
transaction.state.log.num.partitions=4
# Groups form at once, and members that die are noticed within the second if they ask for it.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=500
group.consumer.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=100
# After a kill the broker may come back once its former life has lost its session, not 9 s later.
broker.session.timeout.ms=2000
broker.heartbeat.interval.ms=500
# Transactions that hang end on time, not up to ten seconds later.
transaction.abort.timed.out.transaction.cleanup.interval.ms=500
transaction.max.timeout.ms=900000
message.max.bytes={_RECORD_BYTES_MAX}
replica.fetch.max.bytes={_RECORD_BYTES_MAX}
socket.request.max.bytes=104857600
# Positions that are forgotten look like those of a first start. For ten years, as for ever is more
# minutes than a broker can multiply.
offsets.retention.minutes=5256000
log.retention.ms=-1
log.retention.bytes=-1
"""

#: Log4j's: everything of interest to standard output.
LOGGING = """\
appender.console.type=Console
appender.console.name=console
appender.console.layout.type=PatternLayout
appender.console.layout.pattern=[%d] %p %m (%c)%n
rootLogger.level=info
rootLogger.appenderRef.console.ref=console
# Three hundred lines of settings at each start.
logger.settings.name=org.apache.kafka.common.config.AbstractConfig
logger.settings.level=warn
"""

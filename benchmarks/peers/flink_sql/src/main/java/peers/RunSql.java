package peers;

import java.nio.file.Files;
import java.nio.file.Path;
import org.apache.flink.configuration.Configuration;
import org.apache.flink.configuration.GlobalConfiguration;
import org.apache.flink.table.api.EnvironmentSettings;
import org.apache.flink.table.api.TableEnvironment;
import org.apache.flink.table.api.TableResult;

/**
 * Runs the statements of a file, separated by semicolons, in a cluster inside this process.
 *
 * <p>Arguments: the folder of config.yaml, the file of statements; then NAME=VALUE for each ${NAME}
 * in it.
 */
public final class RunSql {
  private RunSql() {}

  public static void main(String[] arguments) throws Exception {
    Configuration configuration = GlobalConfiguration.loadConfiguration(arguments[0]);
    String text = Files.readString(Path.of(arguments[1])).replaceAll("(?m)^--.*$", "");
    for (int at = 2; at < arguments.length; at++) {
      String[] pair = arguments[at].split("=", 2);
      text = text.replace("${" + pair[0] + "}", pair[1]);
    }
    TableEnvironment tables =
        TableEnvironment.create(
            EnvironmentSettings.newInstance()
                .inStreamingMode()
                .withConfiguration(configuration)
                .build());
    TableResult last = null;
    for (String statement : text.split(";")) {
      if (!statement.isBlank()) {
        last = tables.executeSql(statement.strip());
      }
    }
    last.await();
  }
}

import io.vertx.core.AbstractVerticle;

/** Publishes numbered news at the address news-feed, ten a second, and prints each. */
public class Sender extends AbstractVerticle {
  private int next;

  @Override
  public void start() {
    vertx.setPeriodic(100, timer -> {
      String news = "news " + next++;
      vertx.eventBus().publish("news-feed", news);
      System.out.println("published " + news);
    });
  }
}

import io.vertx.core.AbstractVerticle;
import io.vertx.core.Promise;

/** Prints what is published at the address news-feed, anywhere in the cluster. */
public class Receiver extends AbstractVerticle {
  @Override
  public void start(Promise<Void> started) {
    vertx.eventBus().<String>consumer("news-feed", m -> System.out.println("received " + m.body()))
        .completionHandler(done -> {
          if (done.succeeded()) {
            System.out.println("ready");
          }
          started.handle(done);
        });
  }
}

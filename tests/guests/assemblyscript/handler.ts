// A WAGI handler in AssemblyScript: tells method, path and query, and gives the body back in capitals.
function variable(name: string): string {
  return process.env.has(name) ? process.env.get(name) : "";
}

const buffer = new ArrayBuffer(4096);
let body = "";
while (true) {
  const got = process.stdin.read(buffer);
  if (got <= 0) break;
  body += String.UTF8.decode(buffer.slice(0, got));
}
process.stdout.write("Content-Type: text/plain\nX-Made-By: AssemblyScript\n\n");
process.stdout.write(variable("REQUEST_METHOD") + " " + variable("PATH_INFO") + " " + variable("QUERY_STRING") + "\n");
process.stdout.write(body.toUpperCase());

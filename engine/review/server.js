// Requests to the server of the review.  An error has the `code` of HTTP, unless nobody answers.

export const ENDED = "The review has ended. Start it again and open its new address.";
export const ask = async (path, body) => {
  const options = body && {
    method: "POST", body: JSON.stringify(body), headers: { "Content-Type": "application/json" },
  };
  let answer;
  try { // a second time, because an idle connection may just be closed; a verdict twice is one
    answer = await fetch(path, options).catch(() => fetch(path, options));
  } catch {
    throw new Error(ENDED);
  }
  if (answer.ok) return answer;
  const { error } = await answer.json().catch(() => ({ error: `answer ${answer.status}` }));
  throw Object.assign(new Error(error), { code: answer.status });
};
export const askJson = async (path, body) => (await ask(path, body)).json();

// What is said of a case, with `px`: the levels of each plane, by name.
export const unpack = (buffer) => {
  const size = new DataView(buffer).getUint32(0, true);
  const found = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, size)));
  const px = found.width * found.height;
  found.px = Object.fromEntries(found.planes.map(
    (name, k) => [name, new Uint8Array(buffer, 4 + size + k * px, px)],
  ));
  found.drawn = {};
  return found;
};

"""Recognise a message that as a whole opts out (STOP), opts in again (START) or asks for help (HELP).

The words are those of carriers and vendors, and their translations. The phrases are a closed list, since US rules
count every reasonable refusal (47 CFR 64.1200(a)(10)). A word that often answers another question is left out, such
as `Ende` or `annuler`; `tests/keywords.csv` gives the reasons.
"""

import re
import unicodedata
from collections.abc import Iterator, Mapping
from itertools import chain, product
from types import MappingProxyType

from app.domain import Keyword

#: Characters. A longer text is a conversation.
LONGEST = 64


#: More words of an installation, normalised; made by `extra_words`.
ExtraWords = Mapping[str, Keyword]
NO_EXTRA: ExtraWords = MappingProxyType({})

# Tables are written as normalised, without accents and punctuation. A comma separates entries, `(a|b|)` is a choice,
# and spaces do not count.

#: Words that also answer other questions. They count alone, without `please` or another addition.
_ALONE = """
cancel, end, quit, revoke, remove, (alto|baja|basta)(| por favor), detener, detenganse, detengase, ya basta,
basta ya, cancelar, salir, sair, remover
"""

#: Refusals that nothing else can be meant by. They may be repeated and take the additions below.
_REFUSALS = """
stop, stopp, sotp, stpo, stop (all|tout|todo|tudo|alles), unsub,
un(subscribe|subscribed|subcribe|suscribe|subsribe|subscibe|subscrib),
un(scribe|subsrcibe|subscride|scubscribe|sbscribe|susbcribe|subsscribe|subscrbe|subscripe|suscribed|suscrib),
unsubscribe (me|all), unsu(b|)(s|)(c|)ribe me,
unsubscribe (me |)from (this|your|the|all) (list|texts|messages|mailing list), opt out, opt me out,
opt (me |)out of (this|these|your|all|the) (texts|messages|list), (i m |im |)opting out, opted out, i opt out,
stop (2|to) (end|quit|stop|cancel|unsubscribe|opt out), (revoke|withdraw) (my |)consent,
i (revoke|withdraw) (my |)consent, cease and desist, leave me alone, lose my number,
(cancel|end|stop) (all |the |these |your |)(texts|sms|messages|msgs|text messages|txts),
stop (text|txt|message|msg|spam|the spam|alerts|notifications|promotions|ads|subscription|spamming|contacting),
no more (texts|messages|sms|text messages|msgs|spam), i want out,

arret, arrett, arret(e|es|er|ez), stoppe(r|z|), cesse(r|z),
stop (sms|mms|pub|pubs|sms pub|pub sms|publicite|publicites),
stop (aux |a vos |vos |les |)(sms|textos|messages|pubs), des(s|)abon(n|)(e|er|ez|ement), d(e|)sin(s|)crire,
des(s|)in(s|)cri(re|r|ption), (me|se|de me|veuillez me) des(abonner|inscrire|inscrir|aboner),
je me des(abonne|inscris), desabonne(z|s|) moi, desabo, desinscri(vez|s|t) moi,
je (veux|souhaite|voudrais) me des(abonner|inscrire), plus aucun (message|sms|texto),
(arret|arret des|stopper les|stoppez les) (sms|messages|pubs), annuler (l |mon |)abonnement,
plus de (pub|pubs|publicite), plus de (sms|messages) (svp|merci),
(laisse|laissez|fichez|foutez) moi (tranquille|la paix),
(retirez|enlevez|supprimez|otez|rayez|retire|enleve) moi de (votre|vos|la|cette|ta) (liste|listes),
(me |)(retirer|enlever|supprimer) de (votre|la|cette) liste, supprime(z|r|) mon numero,

parar, pare, paren, baja (sms|mensajes), (darme|darse|dar|me quiero dar|quiero que me den) de baja,
d(a|e|en|ad)me de baja, me doy de baja,
(quiero|deseo|quisiera) (darme de baja|desuscribirme|cancelar la suscripcion),
des(uscribir|subscribir|inscribir|ubscribir)(me|se|), desuscri(beme|banme|bame), de(ja|je|jen|jad)(me|) en paz,
dejenme tranquil(o|a), (cancelar|anular) (la |mi |)suscripcion, stop (mensajes|publicidad),
basta de (mensajes|sms|publicidad), (cancelar|parar|detener) (mensajes|sms|los mensajes), no molest(ar|en|es),
no me molest(en|es|e) (mas|), no mas (mensajes|sms|publicidad|mensajes de texto|textos),
(ya |)no (quiero|deseo) (recibir |)(mas |)(mensajes|sms|publicidad) (suyos|de ustedes|), ya no me escrib(as|an|a),
(quita|quite|quiten|saca|saque|saquen|borra|borre|borren|elimina|elimine|eliminen)me de (la|su|tu|esta) lista,
(borrar|borra|borre|borren|eliminar|elimina|elimine|eliminen|quitar|quiten) mi numero, eliminarme de (la|su) lista,

stoppen, stoppt, stoppen sie (das|die nachrichten|die sms), abmelden, abmeldung, abbestellen, abbestellung,
deabonnieren, austragen, aufho(e|)ren, mich abmelden, melde(n sie|t|) mich (bitte |)ab, ich melde mich ab,
ich (mochte|moechte|will) mich abmelden, trag(en sie|t|) mich (bitte |)aus,
(newsletter|sms|nachrichten|werbung) (abbestellen|abmelden|stoppen), (stop|stopp) (werbung|nachrichten|spam|sms),
keine (sms|nachrichten|werbung|texte|weiteren nachrichten|weiteren sms) (mehr|) (schicken|senden|an mich|bitte),
keine (sms|nachrichten|werbung|texte) mehr, keine weiteren (nachrichten|sms), lass(en sie|t|) mich in ruhe,
nicht mehr (senden|anschreiben|kontaktieren), ich widerrufe meine einwilligung, einwilligung widerrufen,
(nehmen sie|nehmt|nimm|entfernen sie|streichen sie|streicht|streich) mich (bitte |)von (der|ihrer|eurer) liste,
(nehmen sie|nehmt|nimm|entfernen sie|streichen sie|streicht) mich (bitte |)aus (dem|ihrem|eurem) verteiler,
(mich |)(von der liste|von ihrer liste|aus dem verteiler) (nehmen|streichen|entfernen), meine nummer lo(e|)schen,
lo(e|)sch(en sie|t|e|) meine nummer, ich (mochte|moechte|will) nicht mehr (kontaktiert|angeschrieben) werden,
ich (mochte|moechte|will) keine (nachrichten|sms|werbung) mehr (bekommen|erhalten|von euch|von ihnen|),
ich (mochte|moechte|will) keine weiteren (nachrichten|sms) (bekommen|erhalten|),

parem, sair por favor, quero sair da lista, sair da lista, descadastr(ar|e|em|a|o), descadastra(r|) me,
descadastre me, me descadastr(e|em|a|ar), quero (me descadastrar|me desinscrever),
(remover|excluir) (o |)meu (numero|contato), remover da lista, remov(a|am|er|e) me, me remov(a|am|e|er),
des(inscrever|increver), (me |)desinscrev(er|a|am), desinscreva me,
(quero |)(cancelar|cancele|anular) (a |minha |)(inscricao|subscricao), cancelar (o |)recebimento, cancelar mensagens,
(parar|stop) (mensagens|sms|mensagem|as mensagens),
(nao perturbe|nao perturbar|chega de mensagens|chega de mensagem),
(me |)(tire|tira|tirem|remova|remove|removam|retire|retira|exclua|exclui) (me |)(da lista|da sua lista|dessa lista),
(tire|tira|remova|retire|exclua|apague|delete) (o |)meu (numero|contato) (da lista|da sua lista|),
me deix(e|a|em) em paz, (nao|n) quero (mais |)receber (mais |)(as |suas |)(mensagens|mensagem|sms|propaganda),
nao quero mais (mensagens|mensagem|sms|propaganda), nao desejo (mais |)receber (mais |)(mensagens|sms),
(nao desejo|nao quero) (mais receber|receber mais nada), sem mais mensagens
"""

#: The same, addressed to the sender. A question such as `can you please` may come before an English one.
_ENGLISH_REQUESTS = """
(stop|quit) (texting|messaging|txting|textin|msging|spamming|bothering|harassing|contacting) me (anymore|any more|),
(stop|quit) (texting|messaging|txting) (this number|us), (stop|quit) (texting|messaging), stop calling me,
stop (sending|sendin) (me |)(these |any |any more |more |your |)(texts|messages|text messages|sms|msgs|spam|ads),
stop sending, stop sending me (these|this|stuff|anything), stop with the (texts|messages),
(do not|dont|never) (text|message|contact|txt|msg|sms) (me|this number|us) (again|anymore|any more|ever again|),
(do not|dont) (text|message|contact),
(do not|dont) send me (any more |any |more |anymore |)(texts|messages|text messages|sms|msgs|spam),
(remove|delete|take) me (from|off|off of) (your|the|this) (list|mailing list|text list|texting list|contacts),
remove me, take me off, take my number off your list, take me off (of |)(your|the|this|all) lists, delete my number,
unsubscribe me, opt me out,
remove (me from this|my number|my number from your list|this number|this number from your list)
"""
_QUESTIONS = "(can you|can u|could you|would you|will you|i want you to|i need you to) (please |)"
_WISHES = """
i (want|would like|d like|wish) to (opt out|unsubscribe|be removed|be removed from your list|withdraw my consent),
i (want|would like|d like|wish) to (stop|quit) (receiving|getting) (these |your |)(texts|messages|text messages),
i (do not|dont) (want|wish) (to receive |to get |)(any more |anymore |more |any |these |your )(texts|messages),
i (do not|dont) (want|wish) to (receive|get) (texts|messages), i no longer (consent|want to receive messages)
"""
_REQUESTS = """
(arretez|arrete|cessez|cesse|arreter|cesser) de m ecrire,
(arretez|arrete|cessez|arreter|cesser) (de m envoyer|d envoyer) (des|vos|ces) (messages|sms|textos|pubs),
(arretez|arrete|cessez|arreter|cesser) de me (contacter|harceler|spammer|deranger|solliciter),
(arretez|arrete|cessez|arreter|cesser) (les|vos|ces|avec vos|avec les) (messages|sms|textos|pubs|envois),
(ne |)(m ecrivez|m ecris|me contactez|me contacte|me sollicitez|me derangez|m envoyez) plus (rien|jamais|),
(ne |)plus (m ecrire|me contacter|me solliciter|me deranger),
(ne |)(m envoyez|m envoie|m envoyer|n envoyez) plus (de|vos|aucun|d) (message|messages|sms|textos|pub|pubs|publicite),
ne plus m envoyer (de|vos|aucun) (message|messages|sms|textos|pub|pubs|publicite),
je (ne |)(veux|souhaite|desire) plus (recevoir |)(de|vos|ces|aucun|de vos) (message|messages|sms|textos|pub|pubs),
(ne |)n ecrivez plus, je (ne |)(veux|souhaite|desire) plus etre (contacte|contactee|sollicite|sollicitee),
ne plus recevoir de (messages|sms),
(deja|deje|dejen|dejad|para|pare|paren) de (escribirme|contactarme|molestarme|molestar|mensajearme|textearme),
(deja|deje|dejen|dejad|para|pare|paren) de (enviar|mandar)(me|) (tantos |estos |mas |)(mensajes|sms|publicidad),
(deja|deje|dejen) de (enviar|mandar|escribir), no me (escrib|contact)(as|a|an|es|e|en) (mas|nunca mas|),
(ya |)no me (mand|envi)(es|e|en) (mas |)(mensajes|mensaje|sms|publicidad|textos),
no me (mand|envi)(es|e|en) (nada |)mas, (ya |)no (enviar|mandar|envien|manden) (mas |)(mensajes|sms|publicidad),
no enviarme mas (mensajes|sms),
(hor|hoer|horen sie|horen sie bitte|hoeren sie|hort|hoert) auf (mir |uns |)(nachrichten |sms |)zu (schreiben|senden),
(hor|hoer|hort|hoert|horen sie) auf (mir |)(nachrichten |sms |)zu schicken,
schreib(en sie|t|) mir (nicht mehr|nie wieder|nie mehr|bitte nicht mehr|nichts mehr), nicht mehr schreiben,
(schick|schicke|schickt|schicken sie|sende|sendet|senden sie) (mir |)keine (nachrichten|sms|werbung|texte) mehr,
(schick|schicke|schickt|schicken sie|sende|sendet|senden sie) mir (nichts mehr|bitte keine nachrichten mehr),
kontaktier(en sie|t|e|) mich (bitte |)(nicht mehr|nie wieder), mir nicht mehr schreiben,
mich nicht mehr kontaktieren,
(pare|parem|para) de (me |)(enviar|mandar|escrever|escrever pra mim|incomodar|perturbar|contatar),
(pare|parem|para|deixe|deixem|deixa) de (me |)(enviar|mandar) (essas |estas |)(mensagens|mensagem|sms|msg|propaganda),
(pare|parem|para) de (me |)(escrever|enviar mensagens pra mim|mandar mensagem pra mim),
(nao|n) (me |)(mand|envi)(e|em|a|es) (mais |)(mensagens|mensagem|sms|msg|propaganda|propagandas),
(nao|n) me (mand|envi)(e|em|a) mais nada,
(nao|n) (mandar|enviar|mande|envie|mandem|enviem) mais (mensagens|mensagem|sms|nada|),
(nao|n) me (escreva|escrevam|contate|contatem|contacte|contactem|incomode|incomodem|perturbe|perturbem) (mais|),
(nao|n) (entre|entrem) (mais |)em contato (comigo|)
"""

#: Ordinary words that without their spaces would be a keyword: French and Spanish for "a stop".
_SAME_LETTERS = {"un stop"}
_STARTS = """
start, unstop, subscribe, resubscribe, re subscribe, opt in, opt me in, commencer, reabonner, me reabonner, abonner,
reabonnement, alta, iniciar, comenzar, empezar, suscribir, suscribirme, reanudar, anmelden, starten, abonnieren,
comecar, inscrever, cadastrar
"""
_YESES = "yes, oui, si, ja, sim"
_HELPS = "help, info, aide, ayuda, hilfe, ajuda"

#: Additions that leave a refusal a refusal: greetings, courtesy, urgency, and the short code of `STOP au 36180`.
_BEFORE = """
please, pls, plz, plse, kindly, ok, okay, hi, hello, wrong (number|person),
bonjour, salut, hola, hallo, guten tag, ola, oi, bom dia,
(s il|sil) (vous|te) plait, svp, stp, veuillez, merci (de|d), por favor, porfavor, porfa, favor, favor de, bitte,
por gentileza, pfv, pfvr
"""
_AFTER = """
wrong (number|person),
please, pls, plz, plse, thanks, thank you, thx, ty, now, right now, immediately, asap, at once, already, forever,
(s il|sil) (vous|te) plait, svp, stp, merci, merci d avance, maintenant, immediatement, tout de suite,
por favor, porfavor, porfa, gracias, muchas gracias, ya, ahora, ahora mismo, inmediatamente, de inmediato,
bitte, danke, danke schon, vielen dank, sofort, ab sofort, jetzt, umgehend,
por gentileza, pfv, pfvr, pf, obrigado, obrigada, obg, agora, agora mesmo, imediatamente, ja
"""
_SHORT_CODE = r"(?:(?:au|to|al|an|para|no|ao) )?[0-9]{5,6}"

#: Emoji that would otherwise become letters or digits: keycaps, and signs such as U+2122, U+2139 and squared words.
_LETTER_EMOJI = re.compile("[0-9#*]\ufe0f?\u20e3|[\u2122\u2139\u24c2\u3297\u3299\U0001f100-\U0001f2ff]")
#: Accents, soft hyphens, zero-width characters and direction marks.
_INVISIBLE = re.compile("[\u00ad\u0300-\u036f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]+")
_NO_WORD = re.compile(r"[\W_]+")
_DRAWN_OUT = re.compile(r"([a-z])\1{2,}")


def keyword_in(text: str, extra: ExtraWords = NO_EXTRA) -> Keyword | None:
    """The keyword that the whole text is, or None, also for any text of more than 64 characters.

    Case, accents, punctuation, spaces, emoji, invisible characters and drawn-out letters do not count. The words of
    `extra` match without additions such as `please`.
    """
    text = text.strip()
    if len(text) > LONGEST:
        return None
    words = _normalised(text)
    key = words.replace(" ", "")
    if words not in _SAME_LETTERS and (found := _keyword(key) or extra.get(key)):
        return found
    if words.startswith(_BEGINNINGS) or words.endswith(_ENDS):
        words = _ADDITIONS.sub("", words)
    return Keyword.STOP if _is_refusal(words) else None


def extra_words(setting: str) -> ExtraWords:
    """The words of a setting such as `STOP=NIE WIEDER|GENUG;HELP=ASSIST`; none for an empty one.

    Raises:
        ValueError: it is written in another way, or a word is too long, empty, or already of another kind.
    """
    found: dict[str, Keyword] = {}
    for part in setting.split(";") if setting.strip() else []:
        kind, equals, words = part.partition("=")
        if not equals or kind.strip().upper() not in Keyword.__members__:
            raise ValueError("write it as STOP=word|another word;HELP=word, with the kinds STOP, START, YES and HELP")
        keyword = Keyword[kind.strip().upper()]
        for word in map(str.strip, words.split("|")):
            key = _normalised(word).replace(" ", "")
            if not key or len(word) > LONGEST:
                raise ValueError(
                    f"each word of {keyword.name} needs a letter or digit, and {LONGEST} characters at most"
                )
            if (other := keyword_in(word, found) or keyword) is not keyword:
                raise ValueError(f"a word of {keyword.name} already means {other.name}; name it under one kind")
            found[key] = keyword
    return MappingProxyType(found)


def _normalised(text: str) -> str:
    """The words in lower case, a space between them."""
    if not text.isascii():
        text = unicodedata.normalize("NFKD", _LETTER_EMOJI.sub(" ", text))
        text = _INVISIBLE.sub("", text)
    return _DRAWN_OUT.sub(r"\1", _NO_WORD.sub(" ", text.casefold()).strip())


def _keyword(key: str) -> Keyword | None:
    return Keyword.STOP if key in _PLAIN_REFUSALS else _KEYWORDS.get(key)


def _is_refusal(words: str) -> bool:
    """True for a refusal without additions, or several in a row, such as `stop stop`."""
    if words.replace(" ", "") in _PLAIN_REFUSALS:
        return True
    parts = words.split()
    return bool(parts) and all(part in _PLAIN_REFUSALS for part in parts)


def _spellings(patterns: str) -> Iterator[str]:
    """All spellings of the entries of a table."""
    for pattern in filter(None, re.split(r",\s+|\n", patterns)):
        choices = [part.split("|") for part in re.split(r"[()]", pattern)]
        yield from map("".join, product(*choices))


def _tables() -> tuple[dict[str, Keyword], frozenset[str]]:
    """The keywords that count alone, with their kinds, and the refusals that take additions. None has spaces."""
    english = [*_spellings(_ENGLISH_REQUESTS)]
    asked = (question + request for question in _spellings(_QUESTIONS) for request in english)
    others = (each for table in (_REFUSALS, _WISHES, _REQUESTS) for each in _spellings(table))
    refusals = frozenset(phrase.replace(" ", "") for phrase in chain(others, english, asked))
    kinds = {Keyword.STOP: _ALONE, Keyword.START: _STARTS, Keyword.YES: _YESES, Keyword.HELP: _HELPS}
    words = {word.replace(" ", ""): kind for kind, table in kinds.items() for word in _spellings(table)}
    return words, refusals


_KEYWORDS, _PLAIN_REFUSALS = _tables()
_BEGINNINGS = tuple(f"{addition} " for addition in _spellings(_BEFORE))
_ENDS = (*(f" {addition}" for addition in _spellings(_AFTER)), *"0123456789")
_ADDITIONS = re.compile(rf"^(?:{'|'.join(_BEGINNINGS)})+|(?:{'|'.join([*_ENDS[:-10], f' {_SHORT_CODE}'])})+$")
